"""Networks: backbones turn images into feature maps, heads turn feature maps into embeddings and logits."""
