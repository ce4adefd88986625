"""Other systems under the same graphs and faults, each set up as its users are advised to for work that counts."""
