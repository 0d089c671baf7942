"""Text in, integer arrays out. This room uses NumPy alone, and of the package only `config.py`.

    corpus, lines, biographies   files, or made-up people -> documents, questions and answers
    objectives, mixture, spans   documents and questions -> examples: input ids and target ids
    stage_data, chunks           what one stage of training reads, one chunk after the other
    batches                      examples -> batches of a few fixed shapes
    holdout                      which questions are kept out of training

Three words name pieces of data, in the code, the config and the docs:

- A *chunk* is a run of consecutive documents that are laid out as arrays at one time. A small corpus is one
  chunk. No batch holds documents of two chunks.
- A *shard* is the documents of a chunk that fill their own rows of every batch. A process that trains on
  these rows alone reads no other documents. Without shards, all documents may go to any row.
- A *microbatch* is some of a batch's rows, of similar length, cut to their own width. The gradients of an
  update's microbatches add up to the gradient of its batch.
"""
