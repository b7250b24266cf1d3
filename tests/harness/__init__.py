"""What tests stand on: real clusters, and the program as its users run it."""
