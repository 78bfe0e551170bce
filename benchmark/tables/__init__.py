"""Numbers as Markdown, LaTeX, CSV and terminal tables."""
