"""Records, sources, pairing and collation: text in files becomes tensors."""
