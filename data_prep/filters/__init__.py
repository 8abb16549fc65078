"""Filters: each `f(document, settings) -> Document | Drop`. A filter may change the text or add metadata by returning a
new Document (`dataclasses.replace`); it never changes the one it was given, and looks at nothing but its arguments."""
