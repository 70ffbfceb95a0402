"""Trained models: loading, recommending, transfer and export."""
