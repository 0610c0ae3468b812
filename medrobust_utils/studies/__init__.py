"""One module a paper: the arms of its study and the comparisons its claims ask for."""
