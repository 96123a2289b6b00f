"""From a picture and a sentence to an answer, a box, a score: a checkpoint and a detector in one object."""
