"""AutoAttack for every head: two classes and more, one logit, several labels, label maps."""
