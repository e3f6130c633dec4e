"""What a DICOM header says: files opened safely, values parsed, frames of enhanced images, what an image shows."""
