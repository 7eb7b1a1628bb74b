"""What a training sample is: batches of augmented crops that keep their geometry."""
