"""The infrastructure held to the code, without Azure."""
