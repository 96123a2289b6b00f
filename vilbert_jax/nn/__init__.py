"""The layers of ViLBERT, one file per level: attention, layers, coattention, embeddings, encoder, heads."""
