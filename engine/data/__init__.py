"""Documents: the World vocabulary, jsonl and binidx files, masks, and what training reads of them."""
