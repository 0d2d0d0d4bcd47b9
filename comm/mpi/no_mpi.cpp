// comm/mpi/no_mpi.cpp
