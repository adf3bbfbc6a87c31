"""A dataset for the Hugging Face hub: Parquet files that `datasets.load_dataset` opens, a card, and the upload."""
