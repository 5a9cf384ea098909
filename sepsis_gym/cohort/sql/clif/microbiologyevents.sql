-- Cultures; one row per organism in CLIF, one specimen per moment and fluid.
-- Inputs:  clif_microbiology_culture, hospitalizations, stays
-- Output:  as hosp/microbiologyevents
SELECT h.subject_id,
    dense_rank() OVER (ORDER BY h.hadm_id, m.collect_dttm, m.fluid_category) AS micro_specimen_id,
    m.collect_dttm + h.clock AS charttime, date_trunc('day', charttime)::TIMESTAMP AS chartdate
FROM clif_microbiology_culture m
JOIN hospitalizations h USING (hospitalization_id)
WHERE h.subject_id IN (SELECT subject_id FROM stays) AND m.collect_dttm IS NOT NULL
    AND coalesce(lower(m.method_category) = 'culture', TRUE)
