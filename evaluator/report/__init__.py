"""Pages for people: sections of plain data, their pictures, one template."""
