"""Points: rows of a table of numbers, as a modality of hfgen, and a flow of them."""
