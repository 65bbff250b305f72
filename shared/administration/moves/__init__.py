"""An organization moved to another database: its rows, its people, its files."""
