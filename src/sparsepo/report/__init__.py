"""Tables and figures made from score, dynamics and token files; nothing here needs torch."""
