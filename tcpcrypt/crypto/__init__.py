"""Pure computation: groups, key derivation, key schedule, AEADs, wiped secrets."""
