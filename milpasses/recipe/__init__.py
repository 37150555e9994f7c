"""What each weight is to become: schemes, the rules that give them to weights, and their text forms."""
