"""The recurrences, each in several operators, and the choice among them."""
