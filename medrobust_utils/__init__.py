"""medrobust: published claims on the robustness of medical imaging networks, run again."""
