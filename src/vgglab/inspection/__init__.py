"""What a network sees: receptive fields, filters, maps, Grad-CAM, restyling."""
