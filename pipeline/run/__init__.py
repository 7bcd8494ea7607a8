"""All studies: index, deal, journal, gather, resume. Nothing is imported here: it must stay light."""
