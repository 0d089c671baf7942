"""Reads text and returns integer arrays. This subpackage does not use JAX.

    corpus, lines, given         files, or Python lists -> documents, questions and answers
    biographies                  made-up people, with their documents and questions
    vocab                        characters -> ids
    names, people, lookup        the names in questions and documents, and the lines about a name
    objectives, mixture, spans   documents and questions -> examples: input ids and target ids
    stage_data, chunks           what one stage of training reads, one chunk after the other
    batches                      examples -> batches of a few fixed shapes
    holdout                      which questions are kept out of training

Three words name pieces of data, in the code, the config and the docs:

- A *chunk* is a range of consecutive documents that are in memory as arrays at the same time. A small corpus
  is one chunk. No batch contains documents of two chunks.
- A *shard* is a part of a chunk's documents, with its own rows in every batch. A process that trains on these
  rows only does not read the other shards. With one shard, a document may go to any row.
- A *microbatch* is a group of a batch's rows of similar length, cut to their own width. The gradients of an
  update's microbatches add up to the gradient of its batch.
"""
