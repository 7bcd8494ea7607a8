"""The online server: one study in, an answer to look at, over HTTP, DICOMweb and C-STORE."""
