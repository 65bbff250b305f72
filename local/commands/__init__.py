"""The commands of `strive` that are more than a call of the stack."""
