"""What AI agents may do: tools over the caller's own rights."""
