"""What fine-tuning gains and loses at nano size: a new kind of question, a new word, and all that was known before."""
