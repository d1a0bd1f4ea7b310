"""What runs cost, told before they are run: parameters, FLOPs, memory, disk. Imports no torch."""
