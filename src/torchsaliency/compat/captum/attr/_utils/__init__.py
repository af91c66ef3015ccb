"""What captum keeps here and its users import: the rules of LRP."""
