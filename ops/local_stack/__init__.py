"""`up`: the whole pipeline on Google's emulators, on this machine, and the servers that stand in for the rest."""
