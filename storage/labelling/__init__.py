"""What people say of photographs and samples: labels, boxes and masks, in the pixel frame of each sample."""
