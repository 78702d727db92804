"""Networks: U-Net, MLP, classifier, and what they are made of."""
