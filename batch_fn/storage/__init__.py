"""Tables, blobs and queues: the only package that imports the Azure storage SDKs."""
