"""The output folder: its layout, schema, writing and reading."""
