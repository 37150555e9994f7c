"""Legacy models as their files have them: opened, and every weight with its place, shape and form."""
