"""Run the whole pipeline on this machine, for `up`: Google's emulators, and servers that stand in for the rest."""
