"""What a weight becomes: encodings (plain arrays), how they are made, checked, and written as ops."""
