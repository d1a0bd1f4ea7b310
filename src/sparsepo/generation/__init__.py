"""Generation back ends behind one function."""
