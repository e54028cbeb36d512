# Fails if an object with instruction-set flags of its own defines a weak function: the linker could
# keep that copy of an inline function for everyone, and an older CPU would stop at its first vector
# instruction. -DNM=<nm> -DOBJECTS=<a.o,b.o>, compiled at -O0, where nothing is inlined away. Code in
# a namespace of one instruction set (Highway's) cannot be mistaken for others' and may be weak.
# -DPLANTED=ON: an object that has one, which must be found.
string(REPLACE "," ";" objects "${OBJECTS}")
if(NOT objects)
  message(FATAL_ERROR "OBJECTS must name objects; got none")
endif()
foreach(object IN LISTS objects)
  execute_process(COMMAND ${NM} -C --defined-only ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "nm must read ${object}; it returned ${result}")
  endif()
  string(REPLACE ";" "," symbols "${symbols}")
  string(REPLACE "\n" ";" lines "${symbols}")
  foreach(line IN LISTS lines)
    if(line MATCHES " [Ww] " AND NOT line MATCHES "::N_[A-Z0-9_]+::")
      string(APPEND found "${object}: ${line}\n")
    endif()
  endforeach()
endforeach()
if(PLANTED AND NOT found)
  message(FATAL_ERROR "the planted weak function was not found in ${OBJECTS}")
elseif(found AND NOT PLANTED)
  message(FATAL_ERROR "weak functions in objects with their own instruction set:\n${found}")
endif()
