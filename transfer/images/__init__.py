"""From a file to the pixels that a network takes in evaluation, without torch."""
