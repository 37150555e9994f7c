"""How the tools look at a program (``graph``), and the forms that ``dump`` writes it in."""
