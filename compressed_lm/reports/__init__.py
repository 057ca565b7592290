"""Reports: one page type (HTML and Markdown), its sections and its figures."""
