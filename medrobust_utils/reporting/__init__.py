"""From a paper's file to verdicts: protocols, records of runs, claims, report, runner."""
