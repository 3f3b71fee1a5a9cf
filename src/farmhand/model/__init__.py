"""Pure types that every part shares. Imports nothing else of Farmhand but the errors."""
