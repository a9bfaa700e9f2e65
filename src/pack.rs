//! Builds the containers and takes the images apart (D-PACK).
