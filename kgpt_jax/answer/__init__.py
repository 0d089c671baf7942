"""A trained model in, answers out.

decode, beam, predict         one model continues texts, searches for answers, answers questions
voters                        runs answer, and all of their models vote
recite                        models write down what they have read about a name, before they answer
reader, open_book, hybrid     answers from the documents, and the choice between them and the model's
evidence, familiar            what speaks for an answer, and whether a run knows a name
confidence, calibrate, calibrated  evidence -> confidence -> probability; made from held-out pairs
sure, label, guarantee        how sure an answer is, where it comes from, and a promise about errors
record, score, evaluate, report  an answer's record, exact match, and evaluations
audit, attention              people who do not exist; attention weights
teachers, taught              answers to train a student on; answers that somebody told a run
"""
