"""An audit of a privacy claim: canaries through the product's own rounds."""
