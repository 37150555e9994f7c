"""Pages of the site that are made from the code: commands, recipe fields, short names, pictures, examples.

Each module has a function that returns Markdown or SVG as text. ``site_hooks.py`` puts them into the site.
"""
