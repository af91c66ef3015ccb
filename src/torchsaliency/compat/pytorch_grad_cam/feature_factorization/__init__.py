"""Deep feature factorisation, under the other library's names."""
